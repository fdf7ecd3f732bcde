"""Posts numbered records with Python's http.client, each post again until it is answered 200.

poster.py ADDRESS PATH COUNT PER_POST [--keys]

A post is PER_POST lines. With --keys each has an Idempotency-Key. Standard output has the number of the
last record of each post that was answered 200; standard error how often one was posted again.
"""

import http.client
import sys
import time

address, path, count, per_post = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
keys = "--keys" in sys.argv
connection = None
again = 0


def record(n):
    return '{"n":%d,"pad":"%080d"}\n' % (n, n)


for first in range(0, count, per_post):
    last = min(first + per_post, count)
    body = "".join(record(n) for n in range(first, last))
    headers = {"Content-Type": "application/x-ndjson"}
    if keys:
        headers["Idempotency-Key"] = "post-%d" % first
    while True:
        try:
            if connection is None:
                connection = http.client.HTTPConnection(address, timeout=30)
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                break
            if answer.status not in (409, 429, 503):
                sys.exit("answered %d" % answer.status)
        except (OSError, http.client.HTTPException):
            pass
        again += 1
        if connection is not None:
            connection.close()
        connection = None
        time.sleep(0.01)
    print(last - 1, flush=True)
print("again %d" % again, file=sys.stderr)
