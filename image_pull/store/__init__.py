"""What pulled images leave on disk, and how they become root file systems."""
