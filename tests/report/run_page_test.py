"""The page of a run: what it says is what the run left, as text."""

import dataclasses
import html.parser
import json
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from sslx.config import ConfigError
from sslx.report import __main__ as command
from sslx.report import maps, page, samples, workdirs
from sslx.weights.run import open_run
from tests import tiny
from tests.weights import runs

EVIL = "<script>alert(1)<!-- %{x} & \"'"
ENDS = f"</script>{EVIL}"  # A folder's name has no slash.
LOSS = [2.5, 2.0, 1.25]


class Reader(html.parser.HTMLParser):
  """Collects elements, their text, and what would be fetched."""

  def __init__(self, text):
    super().__init__()
    self.scripts, self.text, self.tags, self.fetched = [], "", [], []
    self.inside = None
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.inside = tag if tag in ("script", "style") else None
    for key, value in attrs:
      assert not key.startswith("on"), (tag, key)
      if key in ("src", "href") and not value.startswith(("data:", "#")):
        self.fetched.append(value)
    if tag == "script":
      self.scripts.append("")

  def handle_endtag(self, tag):
    self.inside = None

  def handle_data(self, data):
    if self.inside == "script":
      self.scripts[-1] += data
    elif self.inside is None:
      self.text += data

  @property
  def charts(self):
    found = []
    for script in self.scripts:
      try:
        found.append(json.loads(script))
      except ValueError:
        continue
    return {x["title"]: x for x in found}


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
  """A folder of two classes, 24 images to train on and 12 to test."""
  folder, rng = tmp_path_factory.mktemp("pets"), np.random.default_rng(0)
  for i in range(36):
    split = "val" if i % 3 == 0 else "train"
    path = folder / split / (EVIL if i % 2 else "cat") / f"{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
  return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, pets):
  """A run of MAE, of which step 3 of 4 is done."""
  path = tmp_path_factory.mktemp("run") / "a<b>&c"
  config = tiny.vit_config(
    "mae",
    data__source="folder",
    data__data_dir=str(pets),
    data__batch_size=12,
    data__centre__size=16,
    data__centre__resize=16,
    schedule__epochs=2,
  )
  runs.save(path, config)
  rows = [{"step": 0, "eval/knn_20": 0.125, "eval/pixels_knn_20": 0.25}]
  for step, loss in enumerate(LOSS, 1):
    row = {"step": step, "epoch": step / 2, "config": "x", "loss": loss}
    row |= {"feature_std": 0.7, f"mine{ENDS}": 1.0, "grad_norm": float("nan")}
    rows.append(row | {"images_per_second": 24.0, "data_wait/0": 0.5})
  rows.insert(3, {"step": 2, "eval/knn_20": 0.75})
  rows.append({"step": 3, "eval/knn_20": 0.5})
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (path / "metrics.jsonl").write_text(lines)
  (path / "pictures").mkdir()
  for step in (0, 2):
    picture = Image.new("RGB", (24, 9), (step * 100, 0, 0))
    picture.save(path / "pictures" / f"reconstructions-{step}.png")
  card = {
    "version": 1,
    "command": f"python {ENDS}",
    "hardware": "2 x abacus",
    "versions": {"jax": "9.9"},
    "evaluations": [
      {"protocol": f"linear{ENDS}", "data": "pets", "results": {"top_1": 0.625},
       "before": {"top_1": 0.5}},
      {"results": None},
    ],
  }  # fmt: skip
  (path / "card.json").write_text(json.dumps(card))
  return path


def test_the_page_of_a_run(workdir, tmp_path):
  out = tmp_path / "page.html"
  command.main(["run", str(workdir), f"--out={out}", "--images=24"])
  found = Reader(out.read_text())
  assert not found.fetched
  # Plotly, the page's own two, and the data of the charts.
  assert len(found.scripts) == 3 + len(found.charts)
  text = " ".join(found.text.split())
  for said in ("mae · vit · folder · step 3 of 4, not finished", "50.0 %",
               "12.5 %", "25.0 %", "2 x abacus", "versions.jax", "9.9", "0.625",
               f"python {ENDS}", f"linear{ENDS}", EVIL, "a<b>&c",
               "head 2", "reconstructions, step 2"):  # fmt: skip
    assert said in text, said
  (loss,) = found.charts["Loss"]["traces"]
  assert loss["y"] == LOSS
  assert loss["meta"] == {"steps": [1, 2, 3], "epochs": [0.5, 1.0, 1.5]}
  knn = {x["name"]: x["y"] for x in found.charts["kNN accuracy"]["traces"]}
  assert knn == {"knn_20": [0.125, 0.75, 0.5], "pixels_knn_20": [0.25, 0.25]}
  assert "Gradient norm" not in found.charts  # It is never finite.
  assert f"Mine{ENDS}" in found.charts
  assert not any("wait" in title for title in found.charts)
  points = found.charts["t-SNE map by class"]["traces"]
  # Plotly reads HTML in text.
  assert [x["name"] for x in points] == [page.label(EVIL), "cat"]
  assert sum(len(x["x"]) for x in points) == 12
  # Two pictures; 8 images with 7 neighbours; 6 with the mean of 2 heads.
  assert found.tags.count("img") == 2 + 1 + 8 * 8 + 6 * 4


def test_what_is_not_there_is_left_out_with_the_reason(
  workdir, pets, tmp_path, monkeypatch
):
  bare = tmp_path / "bare"
  shutil.copytree(workdir, bare)
  for name in ("checkpoints", "pictures"):
    shutil.rmtree(bare / name)
  (bare / "card.json").write_text("{")
  (bare / "metrics.jsonl").write_text("")
  config = json.loads((bare / "config.json").read_text())
  config["data"]["data_dir"] = str(tmp_path / "gone")
  config["model"]["mask_ratio"] = 0.5
  (bare / "config.json").write_text(json.dumps(config))
  out = tmp_path / "page.html"
  command.main(["run", str(bare), f"--out={out}"])
  text = Reader(out.read_text()).text
  for reason in ("no metrics", "has drawn none", "gone", "no folder",
                 "has no card"):  # fmt: skip
    assert re.search(f"Left out:[^\n]*{reason}", text), reason
  command.main(["run", str(workdir), str(bare), f"--out={out}", "--nodata"])
  found = Reader(out.read_text())
  assert "2 runs" in found.text and "--nodata" in found.text
  assert "config.model.mask_ratio" in found.text
  (name,) = [x["name"] for x in found.charts["Loss"]["traces"]]
  assert name == page.label("a<b>&c")

  monkeypatch.setitem(sys.modules, "umap", None)
  with pytest.raises(ConfigError, match=r"pip install 'sslx\[umap\]'"):
    command.main(["run", str(workdir), f"--out={out}", "--map=umap"])
  with pytest.raises(ConfigError, match=r"must end in \.html"):
    command.main(["run", str(workdir), "--out=page.png"])


def test_neighbours_are_nearest_by_the_cosine(workdir):
  """Against each other, one by one; an image is no neighbour of itself."""
  network = open_run(str(workdir))
  sample, bank = samples.take(network, 100)
  assert (len(sample.features), len(bank.features)) == (12, 24)
  kinds = {str(network.method.evaluated), sample.split, bank.split}
  assert kinds == {"student", "test", "training"}
  cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)
  for i, one in enumerate(maps.neighbours(sample, bank, 3, 2)):
    found = [cosine(sample.features[i], x) for x in bank.features]
    best = np.argsort(found)[::-1][:2]
    assert one.picture == page.data_uri(sample.images.images[i])
    assert one.name == sample.class_of(i)
    assert [x[0] for x in one.nearest] == [
      page.data_uri(bank.images.images[j]) for j in best
    ]
    np.testing.assert_allclose(
      [x[2] for x in one.nearest], np.array(found)[best], atol=1e-6
    )
  for one in maps.neighbours(bank, bank, 24, 1):
    assert one.picture != one.nearest[0][0]
  with pytest.raises(ConfigError, match="10 images"):
    maps.chart(samples.take(network, 9)[0], "tsne")
  alike = dataclasses.replace(bank, features=np.ones_like(bank.features))
  with pytest.raises(ConfigError, match="the same features"):
    maps.chart(alike, "tsne")


def test_a_collapse_is_told(workdir):
  (good,) = workdirs.read([str(workdir)])
  assert good.collapse is None
  spread = lambda *xs: [{"step": i, "feature_std": x} for i, x in enumerate(xs)]
  tell = lambda *xs: dataclasses.replace(good, rows=spread(*xs)).collapse
  assert "since step 2" in tell(0.001, 0.9, 0.001, 0.002)
  assert "since step 0" in tell(0.001)
  assert "from step 1 to 2" in tell(0.9, 0.0, 0.0, 0.9)


def test_text_stays_text_inside_a_script():
  text = page.script_json({"a": [ENDS, "\u2028"]})
  assert not set("<>&\u2028") & set(text)
  assert json.loads(text) == {"a": [ENDS, "\u2028"]}
