"""The URLs of the pages."""

from django.urls import path

from chat import views

urlpatterns = [
    path("", views.index, name="index"),
    path("<str:room_name>/", views.room, name="room"),
    path("<str:room_name>/topic/", views.topic_room, name="topic-room"),
]
