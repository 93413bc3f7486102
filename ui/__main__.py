"""`python -m ui`: the desktop, for the daemon at PILOTHOUSE_URL (with PILOTHOUSE_KEY where it asks for one)."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from PySide6.QtCore import QSettings, QTimer
from PySide6.QtWidgets import QApplication

from ui.session import Session
from ui.theme import Mode, Theme
from ui.window import Window


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ui", description=__doc__)
    parser.add_argument("--page", help="page to open with")
    parser.add_argument("--route", help="route to show on the Monitor or in the Playground")
    parser.add_argument("--theme", choices=["system", "dark", "light"], help="for this run; the choice is not kept")
    parser.add_argument("--size", default="1440x900", help="WIDTHxHEIGHT in pixels")
    parser.add_argument("--screenshot", type=Path, help="write a picture of the window to this PNG file and end")
    parser.add_argument("--after", type=float, default=3.0, help="seconds of live data before the screenshot")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(sys.argv[1:] if arguments is None else arguments)
    app = QApplication(sys.argv[:1])
    app.setApplicationName("Pilothouse")
    app.setOrganizationName("Pilothouse")
    kept = QSettings()
    mode = options.theme or str(kept.value("theme", "system"))
    theme = Theme(app, cast(Mode, mode) if mode in get_args(Mode) else "system")
    session = Session(os.environ.get("PILOTHOUSE_URL", "http://127.0.0.1:8484"), os.environ.get("PILOTHOUSE_KEY", ""))
    window = Window(session, theme)
    window.settings.theme.set_current(theme.mode)
    window.settings.theme_chosen.connect(lambda chosen: kept.setValue("theme", chosen))
    width, _, height = options.size.partition("x")
    window.resize(int(width), int(height))
    if options.page:
        window.show_page(options.page)
    window.show()
    session.start()
    if options.route:
        session.station.replaced.connect(lambda: _show_route(window, options.route))
    if options.screenshot:
        QTimer.singleShot(int(options.after * 1000), lambda: _shoot(window, options.screenshot))
    # Python runs signal handlers between bytecodes: a timer gives it the chance while Qt waits.
    signal.signal(signal.SIGINT, lambda *_: app.quit())
    signal.signal(signal.SIGTERM, lambda *_: app.quit())
    alive = QTimer()
    alive.timeout.connect(lambda: None)
    alive.start(200)
    code = app.exec()
    session.close()
    return code


def _show_route(window: Window, route: str) -> None:
    if window.page() is window.monitor:
        window.monitor.watch(route)
    elif window.page() is window.playground:
        window.playground.try_route(route)


def _shoot(window: Window, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = window.grab().save(str(path), "PNG")
    window.close()
    QApplication.exit(0 if written else 1)


if __name__ == "__main__":
    sys.exit(main())
