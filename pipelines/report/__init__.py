"""The report page: one HTML file that shows what a run made and from what."""
