"""A Django project with Channels: the chat of its tutorial, served by pushd."""
