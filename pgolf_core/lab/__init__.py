"""Everything around the core: corpora, run folders, notebooks, statistics, figures, reports, the command line.

The lab imports the core; the core never imports the lab.
"""
