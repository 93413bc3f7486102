"""From probabilities of speech, one for each 32 ms, to phrases."""

from collections.abc import Iterable, Iterator

FRAME_S = 512 / 16000
PAUSE_S = 0.1


def phrases(speech: Iterable[float]) -> Iterator[tuple[float, float]]:
    """(begin, end) in seconds of each, as soon as it has ended: from the first frame of 0.5 and more up to the first
    of a pause of `PAUSE_S` below 0.35."""
    begin = pause = None
    for number, probability in enumerate(speech):
        at_s = number * FRAME_S
        if probability >= 0.5:
            begin, pause = at_s if begin is None else begin, None
        elif begin is not None and probability < 0.35:
            pause = at_s if pause is None else pause
            if at_s - pause >= PAUSE_S:
                yield begin, pause
                begin = pause = None
    if begin is not None:
        yield begin, pause or (number + 1) * FRAME_S
