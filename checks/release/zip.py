"""zip.py BUILT ZIPS NAME...: zips each binary for Lambda and prints sizes and digests. The same binary always gives the same zip.

A binary is BUILT/NAME, as cargo leaves it, or BUILT/NAME/bootstrap, as cargo-lambda does."""

import hashlib
import io
import pathlib
import re
import sys
import zipfile

GLIBC = 34  # provided.al2023 has glibc 2.34; a binary that needs a newer version does not start there

built, zips = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
zips.mkdir(parents=True, exist_ok=True)
digests = []
print(f"{'function':<14} {'binary':>10} {'zip':>10}  SHA-256")
for name in sys.argv[3:]:
    path = built / name
    binary = (path / "bootstrap" if path.is_dir() else path).read_bytes()
    wanted = max(map(int, re.findall(rb"GLIBC_2\.(\d+)", binary)), default=0)
    if wanted > GLIBC:
        sys.exit(f"{name} needs glibc 2.{wanted}, Lambda has 2.{GLIBC}: build on an older system, or with cargo-lambda's zig")
    entry = zipfile.ZipInfo("bootstrap", date_time=(1980, 1, 1, 0, 0, 0))  # the earliest date that a zip can store
    entry.external_attr = 0o100755 << 16
    entry.create_system = 3  # Unix, independent of the build machine
    entry.compress_type = zipfile.ZIP_DEFLATED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(entry, binary, compresslevel=9)
    zipped = buffer.getvalue()
    (zips / f"{name}.zip").write_bytes(zipped)
    digests.append(f"{hashlib.sha256(zipped).hexdigest()}  {name}.zip\n")
    print(f"{name:<14} {len(binary) // 1024:>9}k {len(zipped) // 1024:>9}k  {digests[-1][:16]}…")
(zips / "SHA256SUMS").write_text("".join(digests))
