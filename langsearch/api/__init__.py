"""What `import langsearch` offers to programs and notebooks; the command line calls the same functions."""

import warnings

# tqdm, which libraries bring, asks in every notebook for widgets that nothing here uses.
warnings.filterwarnings("ignore", message="IProgress not found")
