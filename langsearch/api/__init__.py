"""What `import langsearch` offers to programs and notebooks; the command line calls the same functions."""

import logging
import warnings

# Libraries ask in every notebook for widgets that nothing here uses: tqdm by a warning, Ray in its log, when imported.
warnings.filterwarnings("ignore", message="IProgress not found")
logging.getLogger("ray.widgets.util").setLevel(logging.ERROR)
