"""ASGI applications made with the frameworks that teams have, served by a real daemon."""
