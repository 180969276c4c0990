"""Rooms that span processes and hosts, over Redis or Valkey."""

from .broker import RedisBroker, redis_broker
from .settings import RedisSettings
from .sync_rooms import SyncRooms

__all__ = ["RedisBroker", "RedisSettings", "SyncRooms", "redis_broker"]
