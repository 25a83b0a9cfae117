# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
import os
import sys

if sys.version_info < (3, 11):
    sys.exit("lab: error: needs Python 3.11 or later, this is %s" % sys.version.split()[0])
sys.path[0] = os.path.dirname(sys.path[0])

from hostlab.cli import main  # noqa: E402

sys.exit(main())
