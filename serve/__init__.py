"""Ray Serve: stages, their composition, the HTTP API. Holds no signal processing and no network."""
