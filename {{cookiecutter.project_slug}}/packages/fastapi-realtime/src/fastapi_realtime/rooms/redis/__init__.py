"""Rooms that span processes and hosts, over Redis or Valkey."""

from .broker import RedisBroker, RedisSettings, redis_broker
from .sync_rooms import SyncRooms

__all__ = ["RedisBroker", "RedisSettings", "SyncRooms", "redis_broker"]
