"""HTTP: a bare ASGI callable for inference, Starlette for everything else, one uvicorn around both."""
