"""What was done to the coordinates of an image."""

from dataclasses import dataclass, replace

#: Under this name an item keeps its `Geometry`.
GEOMETRY = " geometry"


@dataclass(frozen=True)
class Geometry:
    """Where a point of the image that came is now: x × scale_x + offset_x, y × scale_y + offset_y."""

    original: tuple[int, int]
    """Width, height."""
    size: tuple[int, int]
    scale_x: float = 1.0
    scale_y: float = 1.0
    offset_x: float = 0.0
    offset_y: float = 0.0

    def resized(self, width: int, height: int) -> "Geometry":
        x, y = width / self.size[0], height / self.size[1]
        return Geometry(
            self.original, (width, height), self.scale_x * x, self.scale_y * y, self.offset_x * x, self.offset_y * y
        )

    def moved(self, left: int, top: int, width: int, height: int) -> "Geometry":
        """The new picture begins at (left, top) of this one."""
        return replace(self, size=(width, height), offset_x=self.offset_x - left, offset_y=self.offset_y - top)
