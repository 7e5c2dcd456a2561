"""placeholder"""


class AccessHistory: ...
