"""A manager's web page: its files, which a browser runs as they are, without a build step."""

from warmboot.page.files import PageFile as PageFile
from warmboot.page.files import page_files as page_files
