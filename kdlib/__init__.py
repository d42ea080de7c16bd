"""kdlib: knowledge distillation for driving scenes; the library that the notebooks call.

Rooms, from the ground up (a room imports only rooms below it):

1. ``config`` (on ``blocks``), ``runtime``, ``checkpoint``, ``files``, ``progress``, ``resize``,
   ``detection``
2. ``losses``, ``metrics``, ``models``, ``data``, ``schedule``, ``resuming`` (none imports another)
3. ``methods``, ``teacher``, ``views``
4. ``training``, ``evaluation``, ``unlabelled`` (none imports another)
5. ``preparing``
6. ``experiment``
7. ``report``

``simulate`` stands apart and imports at most floor 1. ``notebook`` runs the notebooks.
"""

__version__ = "0.1.0"
