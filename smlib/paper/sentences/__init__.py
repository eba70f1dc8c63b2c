"""What results say in sentences, made from their numbers: a notebook's prose states no result that it has not read."""

from smlib.paper.sentences.wording import among, bullets, percent, points, spread, verb

__all__ = ["among", "bullets", "percent", "points", "spread", "verb"]
