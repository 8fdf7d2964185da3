"""The web page: Gradio, as one ASGI application. Speaks HTTP to the service; holds no model code, knows nothing of Ray."""
