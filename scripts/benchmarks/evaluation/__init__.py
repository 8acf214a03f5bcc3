"""The cost of evaluating, beside a bare loop over the network."""
