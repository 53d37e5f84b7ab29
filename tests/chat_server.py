"""A real HTTP server that speaks the chat-completions protocol, and looks for doses as a good model would."""

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatServer(ThreadingHTTPServer):
    """Answers by `answer(messages)`; keeps what it was sent. `fail` answers come first."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[dict] = []
        self.authorization: list[str | None] = []
        self.fail: list[int] = []
        self.delay = 0.0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def answer(self, messages: list[dict]) -> str:
        """Finds doses, as a good model would."""
        said = messages[-1]["content"]
        if "Passages:\n" not in said:
            return 'Sure:\n```json\n{"concept": "yes", "explanation": "doses of drugs"}\n```'
        lines = said.split("Passages:\n")[1].split("\n\n")[0].splitlines()
        return json.dumps({"fires": [i for i, line in enumerate(lines, 1) if "dose" in line]})


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body)
        self.server.authorization.append(self.headers.get("Authorization"))
        time.sleep(self.server.delay)
        status = self.server.fail.pop(0) if self.server.fail else 200
        if self.path != "/v1/chat/completions":
            status = 404
        content = self.server.answer(body["messages"])
        said = {
            "choices": [{"message": {"role": "assistant", "content": content}}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        }
        payload = json.dumps(said if status == 200 else {"error": "no"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *args: object) -> None:
        pass
