"""Where data, models and adapters lie: S3, the Hugging Face Hub, HTTPS, claims and folders."""
