"""The book: notebooks with their results, the pages of `docs/`, a page a method and the reference, as one site.

python -m smlib.paper.book.build site      # what `make book` runs
"""
