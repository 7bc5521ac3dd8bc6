"""The URLs of the WebSockets."""

from django.urls import re_path

from chat.consumers import ChatConsumer, TopicChatConsumer

websocket_urlpatterns = [
    re_path(r"^ws/chat/(?P<room_name>\w+)/$", ChatConsumer.as_asgi()),
    re_path(r"^ws/topic/(?P<room_name>\w+)/$", TopicChatConsumer.as_asgi()),
]
