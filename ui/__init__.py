"""The web page: Gradio, as an ASGI application. Speaks HTTP to the service, knows nothing of models or Ray."""
