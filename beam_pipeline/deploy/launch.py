"""What the launcher of the Flex Template runs."""

import sys

from beam_pipeline.submission.flex_template import main

if __name__ == "__main__":
    sys.exit(main())
