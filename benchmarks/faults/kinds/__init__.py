"""One file per place in the pipeline."""
