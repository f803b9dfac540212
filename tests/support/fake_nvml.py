"""A stand-in for nvidia-ml-py: a driver with cards, any of whose calls may fail."""

from types import SimpleNamespace

GIB = 1 << 30


class NVMLError(Exception):
    """As the library raises it."""

    def __init__(self, words="Unknown Error", value=999):
        super().__init__(words)
        self.value = value


class FakeCard(SimpleNamespace):
    """One card, or an instance of one.

    A call whose name is among ``fails`` fails for it.
    """

    def __init__(self, number, **told):
        known = {
            "uuid": f"GPU-{number}{number}{number}{number}aaaa",
            "name": "NVIDIA L4",
            "free": 20 * GIB,
            "total": 24 * GIB,
            "instances": None,
            "processes": {},
            "fails": {},
        }
        super().__init__(**{**known, **told})


class FakeNvml:
    """Stands for the module ``pynvml``.

    Args:
        cards: in nvidia-smi's order.
        fails: calls that fail whatever the card, with their words.
        lacks: calls that this version of the library does not know.
    """

    NVMLError = NVMLError
    NVML_ERROR_LIBRARY_NOT_FOUND = 12

    def __init__(self, *cards, fails=(), lacks=(), absent=False):
        self.cards = list(cards)
        self.fails = dict.fromkeys(fails, "Unknown Error")
        self.absent = absent
        self.open = 0
        for name in lacks:
            setattr(self, name, None)

    def _called(self, name, card=None):
        if name in self.fails:
            raise NVMLError(self.fails[name])
        if card is not None and name in card.fails:
            raise NVMLError(card.fails[name])

    def nvmlInit(self):  # noqa: N802 - the library's name, as all below
        if self.absent:
            raise NVMLError("NVML Shared Library Not Found", 12)
        self._called("nvmlInit")
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.open -= 1
        self._called("nvmlShutdown")

    def nvmlDeviceGetCount(self):  # noqa: N802
        self._called("nvmlDeviceGetCount")
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        card = self.cards[index]
        self._called("nvmlDeviceGetHandleByIndex", card)
        return card

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        self._called("nvmlDeviceGetHandleByUUID")
        every = [*self.cards, *(i for c in self.cards for i in c.instances or ())]
        for card in every:
            if card.uuid == uuid:
                return card
        raise NVMLError("Not Found")

    def nvmlDeviceGetUUID(self, card):  # noqa: N802
        self._called("nvmlDeviceGetUUID", card)
        return card.uuid

    def nvmlDeviceGetName(self, card):  # noqa: N802
        self._called("nvmlDeviceGetName", card)
        return card.name

    def nvmlDeviceGetMigMode(self, card):  # noqa: N802
        self._called("nvmlDeviceGetMigMode", card)
        if card.instances is None:
            raise NVMLError("Not Supported", 3)
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, card):  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card, number):  # noqa: N802
        if number >= len(card.instances):
            raise NVMLError("Not Found", 6)
        return card.instances[number]

    def nvmlDeviceGetMemoryInfo(self, card):  # noqa: N802
        self._called("nvmlDeviceGetMemoryInfo", card)
        return SimpleNamespace(free=card.free, total=card.total)

    def nvmlDeviceGetComputeRunningProcesses(self, card):  # noqa: N802
        self._called("nvmlDeviceGetComputeRunningProcesses", card)
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=used)
            for pid, used in card.processes.items()
        ]
