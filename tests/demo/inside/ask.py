"""Runs in the demo's client pod: asks a chat model and prints one JSON line for each answer.

    ask.py URL MODEL MAX_TOKENS    reads one JSON line after the other from stdin: first a list of messages to go round
                                   with (`questions`), then how to: the number of questions under way at once
                                   (`workers`), each after so many seconds of rest (`rest_s`). It goes on until stdin
                                   ends, and then finishes what it has begun.
    ask.py --once URL MODEL MAX_TOKENS    asks each message once, two at a time

An answer is whatever comes back: the status, or what broke. It runs from its text, so it imports nothing of ours.
"""

from __future__ import annotations

import http.client
import itertools
import json
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator

TIMEOUT_S = 900  # a slow answer on a busy machine is no lost one
once = sys.argv[1] == "--once"
url, model, max_tokens = sys.argv[1 + once :]
where = urllib.parse.urlsplit(url)
printing = threading.Lock()
taking = threading.Lock()
wanted = threading.Condition()
workers = 2 if once else 0
rest_s = 0.0
is_over = False


def answer(question: str) -> dict[str, object]:
    """One request, and all that can be said of it."""
    begin = time.time()
    record: dict[str, object] = {"question": question, "status": 0, "version": None, "text": "", "error": ""}
    connection = http.client.HTTPConnection(where.hostname or "", where.port or 80, timeout=TIMEOUT_S)
    try:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": int(max_tokens),
            "temperature": 0,
        }
        connection.request("POST", where.path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        record |= {"status": response.status, "version": response.headers.get("x-loraline-version")}
        if response.status == 200:
            record["text"] = json.loads(content)["choices"][0]["message"]["content"]
        else:
            record["error"] = content.decode(errors="replace")[:500]
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        record |= {"status": 0, "error": f"{type(error).__name__}: {error}"}
    finally:
        connection.close()
    return record | {"seconds": round(time.time() - begin, 3)}


def work(number: int, questions: Iterator[str]) -> None:
    """Asks one question after the other while this worker is wanted."""
    while True:
        with wanted:
            wanted.wait_for(lambda: is_over or number < workers)
        with taking:
            question = None if is_over else next(questions, None)
        if question is None:
            return
        line = json.dumps(answer(question))
        with printing:
            print(line, flush=True)
        with wanted:
            wanted.wait_for(lambda: is_over or rest_s == 0, timeout=rest_s)


def main() -> None:
    """Starts and stops workers as stdin says."""
    global workers, rest_s, is_over  # noqa: PLW0603  # the whole state of this small program
    messages: list[str] = json.loads(sys.stdin.readline())["questions"]
    questions = iter(messages) if once else itertools.cycle(messages)
    threads = [threading.Thread(target=work, args=(number, questions)) for number in range(2 if once else 4)]
    for thread in threads:
        thread.start()
    for line in sys.stdin:
        with wanted:
            pace = json.loads(line)
            workers, rest_s = pace["workers"], pace["rest_s"]
            wanted.notify_all()
    if not once:
        with wanted:
            is_over = True
            wanted.notify_all()
    for thread in threads:
        thread.join()


main()
