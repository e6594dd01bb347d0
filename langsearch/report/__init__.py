"""See DESIGN in README."""
