"""Fingerprint of a set of images: a few numbers and hashes.

It is saved in each checkpoint, so that a resumed run detects that its images
have changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

Fingerprint = dict[str, int | str | None]

# What has changed if a value differs. Sets from outside sslx may add keys.
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
  """Hash of the concatenated parts, as 16 hexadecimal digits."""
  found = hashlib.blake2b(digest_size=8)
  for part in parts:
    found.update(part)
  return found.hexdigest()


def of(images: Any) -> Fingerprint:
  """The fingerprint of a set.

  Args:
    images: a `sets.Images`. The numbers of images and classes are always
      included; the set's method `fingerprint` may add more.
  """
  known = {"images": len(images), "classes": images.num_classes}
  return known | images.fingerprint()


def differences(
  then: Mapping[str, Fingerprint], now: Mapping[str, Fingerprint]
) -> list[str]:
  """Describes each known difference between fingerprints.

  Args:
    then: saved fingerprints, by the role of the set.
    now: current fingerprints, by the role of the set.
  """
  found = []
  for name in sorted(then.keys() | now.keys()):
    before, after = then.get(name), now.get(name)
    if before is None or after is None:
      state = "is there now" if before is None else "is no longer there"
      found.append(f"the {name} {state}")
      continue
    # A key that only one of them has is not compared.
    for key, value in after.items():
      if before.get(key, value) != value:
        told = _MEANINGS.get(key, key)
        if key in ("images", "classes"):
          told += f" was {before[key]} and is {value}"
        found.append(f"the {name}: {told}")
  return found
