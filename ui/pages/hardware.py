"""Hardware: the machine, the engines it can run, and their runtimes."""

from typing import Any

import msgspec

from app.schema.manage import Engine, Hardware
from ui import format
from ui.pages.page import Page
from ui.session import Session
from ui.tables.base import RowsModel
from ui.tables.station import ENGINES, RUNTIMES
from ui.widgets.basics import label
from ui.widgets.card import Card
from ui.widgets.confirm import Confirm
from ui.widgets.facts import Facts
from ui.widgets.table import Table


class HardwarePage(Page):
    name, title = "hardware", "Hardware"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.facts = Facts()
        machine = Card("This machine")
        machine.add(self.facts)
        self.engines = RowsModel(ENGINES, lambda engine: engine.name)
        engines = Card("Engines", label("what runs models here", "caption"), margins=(16, 14, 16, 8))
        engines.add(Table("Engines", self.engines, selectable=False))
        self.runtimes = RowsModel(RUNTIMES, lambda runtime: runtime.name)
        self.runtimes_table = Table("Runtimes", self.runtimes)
        self.runtimes_table.acted.connect(self._act)
        runtimes = Card(
            "Runtimes", label("environments of their own, side by side", "caption"), margins=(16, 14, 16, 8)
        )
        runtimes.add(self.runtimes_table)
        self.add(machine)
        self.add(engines)
        self.add(runtimes)
        self.body.addStretch(1)
        self._asked = 0
        self._found: dict[str, Engine] = {}

    def _show_engines(self, items: list[Any]) -> None:
        self._found = {engine.name: engine for engine in (msgspec.convert(item, Engine) for item in items)}
        self.refresh()

    def refresh(self) -> None:
        station = self.session.station
        hardware = station.hardware
        if station.daemon is not None and self._asked != station.daemon.pid:
            self._asked = station.daemon.pid
            self.session.engines(self._show_engines)
        if station.loaded:
            self.engines.set_rows(list((self._found | station.engines).values()))
            self.runtimes.set_rows(list(station.runtimes.values()))
        if hardware is not None:
            self.facts.set_facts(machine_facts(hardware))
        usable = sum(engine.usable for engine in self.engines.rows)
        where = hardware.hostname if hardware else ""
        gpus = format.plural(len(hardware.gpus), "GPU") if hardware and hardware.gpus else "no GPU"
        self.say(
            format.joined(
                where, gpus, f"{usable} of {len(self.engines.rows)} engines can be used" if self.engines.rows else ""
            )
        )

    def _act(self, runtime: str, action: str) -> None:
        if action == "install":
            self.session.install(runtime, self.failed(f"{runtime} was not installed"))
            return

        def remove() -> None:
            self.session.uninstall(runtime, self.failed(f"{runtime} was not removed"))

        text = "Its files are deleted. Deployments that run in it stop until it is installed again."
        Confirm(self, f"Remove the runtime {runtime}?", text, "Remove", remove).open()


def machine_facts(hardware: Hardware) -> list[tuple[str, str]]:
    cpu = hardware.cpu
    facts = [
        ("Name", hardware.hostname),
        ("System", hardware.os),
        ("Processor", format.joined(cpu.name, f"{cpu.physical_cores} cores, {cpu.logical_cores} threads")),
        ("Instructions", ", ".join(cpu.features)),
        ("Memory", f"{format.size_of(hardware.memory_used_bytes, hardware.memory_total_bytes)} in use"),
        ("Disk", f"{format.size(hardware.disk_free_bytes)} free for models"),
    ]
    for gpu in hardware.gpus:
        parts = [gpu.name, format.size(gpu.memory_total_bytes) if gpu.memory_total_bytes else ""]
        parts += [f"compute capability {gpu.compute_capability}" if gpu.compute_capability else ""]
        facts.append((f"GPU {gpu.index}", format.joined(*parts)))
    if not hardware.gpus:
        facts.append(("GPU", hardware.gpu_note or "none"))
    return [*facts, ("Driver", hardware.driver or "")]
