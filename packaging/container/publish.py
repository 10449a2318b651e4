"""python publish.py ENDPOINT BUCKET DIRECTORY: upload a directory below site/, its marker last."""

import sys
import uuid
from pathlib import Path

import boto3


def main() -> None:
    """Every file, then RELEASE, so that an agent never sees half of it."""
    endpoint, bucket, directory = sys.argv[1:]
    client = boto3.client("s3", endpoint_url=endpoint)
    if bucket not in [each["Name"] for each in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=bucket)
    for file in sorted(path for path in Path(directory).rglob("*") if path.is_file()):
        client.upload_file(str(file), bucket, f"site/{file.relative_to(directory)}")
    client.put_object(Bucket=bucket, Key="site/RELEASE", Body=str(uuid.uuid4()).encode())


if __name__ == "__main__":
    main()
