"""One module for each kind of raw input: pictures, sound, time series, documents of numbers."""
