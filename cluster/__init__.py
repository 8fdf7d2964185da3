"""Settings, the Ray session, the client of a running service. The only room that knows machines."""
