"""One Settings class, read from the environment (`TOKENSIEVE_…`)."""

import ipaddress
from functools import lru_cache
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Where things live and who may reach them."""

    model_config = SettingsConfigDict(env_prefix="TOKENSIEVE_")

    data_dir: Path = Path("data")
    database_url: str = ""  # empty: SQLite in the data directory
    host: str = "127.0.0.1"
    port: int = 8765
    import_roots: list[Path] = []  # folders from which `import` by server path is allowed
    lease_seconds: float = 20.0
    poll_seconds: float = 0.5
    session_days: int = 14
    # Explanations of latents: any OpenAI-compatible endpoint; without an address nothing is asked.
    explain_url: str = ""  # base, such as http://127.0.0.1:8000/v1
    explain_model: str = ""
    explain_key: SecretStr = SecretStr("")
    explain_price_in: float = 0.0  # per million tokens, for the preview of costs
    explain_price_out: float = 0.0
    # A team: every host name or address under which browsers ask for this server, and how it is encrypted.
    allowed_hosts: list[str] = []
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure_http: bool = False  # somebody else encrypts (a reverse proxy, a VPN)

    @property
    def loopback(self) -> bool:
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def team(self) -> bool:
        """Reached from other machines: accounts only, no login link."""
        return not self.loopback or bool(self.allowed_hosts)

    @property
    def url(self) -> str:
        return self.database_url or f"sqlite:///{(self.data_dir / 'tokensieve.db').absolute()}"

    @property
    def assets_dir(self) -> Path:
        return self.data_dir / "assets"

    @property
    def artifacts_dir(self) -> Path:
        return self.data_dir / "artifacts"


@lru_cache
def settings() -> Settings:
    return Settings()
