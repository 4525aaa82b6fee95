# shellcheck shell=bash
# Takes a released program from its makers' download site when that site is in reach, and checks it against the
# published sha256. What to do when it is not in reach is the caller's matter. Expects lib.sh.

unreachable=() # sites that did not answer once are not asked again

download() { # download FOLDER NAME URL SUMS_URL: puts the program NAME into FOLDER; false when the site is not in reach
  local folder=$1 name=$2 url=$3 sums=$4 site tmp got want
  site=$(cut -d/ -f3 <<<"$url")
  [[ " ${unreachable[*]} " != *" $site "* ]] || return 1
  tmp=$(mktemp -d "$folder/download.XXXXXX")
  if ! fetch "$sums" "$tmp/sums" || ! fetch "$url" "$tmp/file"; then
    unreachable+=("$site")
    rm -rf "$tmp"
    return 1
  fi
  want=$(awk -v file="${url##*/}" 'NF == 1 {print $1} NF > 1 && ($2 == file || $2 == "*" file) {print $1}' "$tmp/sums" | head -1)
  got=$(sha256sum <"$tmp/file" | cut -d' ' -f1)
  if [ "$got" != "$want" ]; then
    rm -rf "$tmp"
    die "$url has the sha256 $got, and ${sums##*/} says ${want:-nothing of this file}; it was thrown away: try again, or build it (LORALINE_DOWNLOADS=none)"
  fi
  case $url in
    *.tar.gz | *.tgz)
      mkdir "$tmp/unpacked"
      tar -xzf "$tmp/file" -C "$tmp/unpacked" --no-same-owner
      mv "$(find "$tmp/unpacked" -type f -name "$name" | head -1)" "$tmp/program" ;;
    *) mv "$tmp/file" "$tmp/program" ;;
  esac
  chmod 755 "$tmp/program"
  mv "$tmp/program" "$folder/$name"
  rm -rf "$tmp"
  say "$name: from $site"
}

fetch() { # fetch URL FILE; LORALINE_DOWNLOADS is a mirror with one folder per site, or none
  local url=$1
  case ${LORALINE_DOWNLOADS:-} in
    none) return 1 ;;
    ?*) url=$LORALINE_DOWNLOADS/${url#https://} ;;
  esac
  curl --silent --fail --location --connect-timeout 3 --speed-time 20 --speed-limit 1000 --retry 1 --output "$2" "$url"
}
