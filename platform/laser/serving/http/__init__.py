"""The model behind HTTP: what a request may ask, the application on Ray Serve, and how it is started and stopped."""
