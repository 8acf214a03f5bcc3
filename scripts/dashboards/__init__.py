"""The parts of `show_dashboards`: a server and the pages that are looked at."""
