"""What the engine keeps for one door."""

import os
from types import SimpleNamespace

from modelserver.core.messages.requests import Evaluate, Gone
from modelserver.engine.engine import DoorSession


class Service:
    """Keeps requests until they are left."""

    def __init__(self):
        self.under_way = []

    def evaluate(self, message, photo, _reply):
        photo.close()
        request = SimpleNamespace(number=message.number, parts=[1], on_end=None)
        self.under_way.append(request)
        return request

    def leave(self, request):
        self.under_way.remove(request)
        request.on_end()

    drop = leave


def test_a_door_that_goes_leaves_all_its_requests():
    """However many it has: each gives back its place, its memory and its share."""
    service = Service()
    loop = SimpleNamespace(soon=lambda function: function())
    session = DoorSession(SimpleNamespace(service=service, loop=loop), print)
    for number in range(5):
        photo = os.memfd_create("photo")
        session.take(Evaluate(number, "detection", ("m",), 1.0, 1.0), [photo])
    session.take(Gone(3), [])
    assert [one.number for one in service.under_way] == [0, 1, 2, 4]
    session.close()
    session.close()
    assert service.under_way == []
