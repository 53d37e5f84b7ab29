"""Put third-party browser files where the server finds them: `python -m app.vendor`."""

import shutil
import tempfile
from pathlib import Path

from app.assets import fetch, is_whole, read_assets
from app.pages import STATIC


def vendor(into: Path = STATIC / "vendor") -> None:
    """Fetch htmx (pinned in assets.toml) into `static/vendor`; does nothing if it is there."""
    asset = read_assets()["htmx"]
    if is_whole(asset, into):
        return
    with tempfile.TemporaryDirectory(dir=STATIC) as temporary:
        for _ in fetch(["htmx"], Path(temporary)):
            pass
        shutil.rmtree(into, ignore_errors=True)
        shutil.copytree(Path(temporary) / "htmx", into)


if __name__ == "__main__":
    vendor()
