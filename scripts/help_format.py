"""How the commands print their help."""

import argparse


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """States the default of each option that has one; of a flag, to be off is none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)
