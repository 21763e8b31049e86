"""`make demo`: real traffic of a pod, mirrored to an analyzer, compared byte for byte."""
