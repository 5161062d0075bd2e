"""The primitives that systems are composed of. The kernel knows no system.

``errors`` ``clock`` ``failpoint`` ``store`` come first; ``idempotency`` gives one effect per key,
``outbox`` commits messages with the state that caused them, ``stats`` turns counts into intervals.
"""
