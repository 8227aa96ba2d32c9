"""A stand-in of vLLM's engine, whose scheduler reads prompts in pieces."""

from __future__ import annotations

from types import SimpleNamespace


class Engine:
    """Decodes what has begun, and reads prompts with what is left of a step's budget, as vLLM does."""

    def __init__(self, budget: int) -> None:
        self.budget, self.waiting, self.running = budget, {}, {}

    def add_request(self, name: str, prompt: dict, count: int) -> None:
        self.waiting[name] = [len(prompt["prompt_token_ids"]), count]

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting or self.running)

    def step(self) -> list[SimpleNamespace]:
        left, out = self.budget - len(self.running), []
        for name in list(self.running):
            out.append(self._token(name))
        for name, request in list(self.waiting.items()):
            read = min(left, request[0])
            request[0], left = request[0] - read, left - read
            if not request[0]:
                self.running[name] = self.waiting.pop(name)[1]
                out.append(self._token(name))
        return out

    def _token(self, name: str) -> SimpleNamespace:
        self.running[name] -= 1
        finished = not self.running[name]
        if finished:
            del self.running[name]
        return SimpleNamespace(request_id=name, finished=finished, outputs=[SimpleNamespace(token_ids=[1])])
