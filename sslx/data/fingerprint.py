"""What a set of images is, in a few numbers and hashes.

A checkpoint keeps it, so that a run that goes on notices that its images are
not those it began with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

Fingerprint = dict[str, int | str | None]

# What it means that a value of it is another. A set from outside sslx may have
# others.
_MEANINGS = {
  "images": "the number of images",
  "classes": "the number of classes",
  "names": "names or their order: files were added, removed or renamed",
  "labels": "labels: images were moved to another class",
  "sizes": "sizes of files: contents were replaced",
  "pixels": "pixels",
  "shards": "the files of the prepared set, or the slice of it",
  "checksums": "the checksums of the prepared set's files",
}


def digest(parts: Iterable[bytes]) -> str:
  """16 hexadecimal digits of what the parts hold, one after the other."""
  found = hashlib.blake2b(digest_size=8)
  for part in parts:
    found.update(part)
  return found.hexdigest()


def of(images: Any) -> Fingerprint:
  """The fingerprint of a set; of one from outside sslx perhaps only its size.

  Args:
    images: as `sources.load` gives them. Its method `fingerprint`, if there is
      one, gives what it knows besides.
  """
  known = {"images": len(images), "classes": images.num_classes}
  more = getattr(images, "fingerprint", None)
  return known | (more() if more else {})


def differences(
  then: Mapping[str, Fingerprint], now: Mapping[str, Fingerprint]
) -> list[str]:
  """What is not the same, in words; empty if nothing is known to be.

  Args:
    then: fingerprints of some sets, by what they are for.
    now: those of the same sets now.
  """
  found = []
  for name in sorted(then.keys() | now.keys()):
    before, after = then.get(name), now.get(name)
    if before is None or after is None:
      state = "is there now" if before is None else "is no longer there"
      found.append(f"the {name} {state}")
      continue
    # What only one of them has is not known to differ.
    for key, value in after.items():
      if before.get(key, value) != value:
        told = _MEANINGS.get(key, key)
        if key in ("images", "classes"):
          told += f" was {before[key]} and is {value}"
        found.append(f"the {name}: {told}")
  return found
