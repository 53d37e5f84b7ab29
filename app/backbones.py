"""What a classifier is trained with, by name: backbones that the demo fetches or ships or that `tokensieve bilm pretrain` made.

A page offers these and no others, so a browser can name no path on the server.
"""

from pathlib import Path

from app.settings import Settings

SHIPPED = Path(__file__).parent / "demo_data"
DEFAULT = "minilm"
LATENTS = "latents"  # as a teacher: a probe over the reference's latents, in place of a classifier


def known(settings: Settings) -> dict[str, Path]:
    """Name -> folder, the default first."""
    found = {DEFAULT: settings.assets_dir / DEFAULT}
    for folder in [*sorted(SHIPPED.glob("bilm-*")), *sorted((settings.data_dir / "backbones").glob("*"))]:
        if (folder / "config.json").is_file():
            found.setdefault(folder.name, folder)
    return found


def located(settings: Settings, name: str | None) -> str:
    """The folder of a known name; anything else is a hub id or a folder already."""
    folder = known(settings).get(name or DEFAULT)
    return str(folder) if folder else str(name)
