# An auditor in shell and awk, behind the line protocol.
while IFS= read -r line; do
  case $line in
    *'"call":"hello"'*) echo '{"ok":["findings"]}' ;;
    *'"call":"findings"'*)
      document=${line#*'"document":"'}
      awk -v ORS= 'BEGIN { print "{\"ok\":[" }
        $3 == "open" || $3 == "any" || $3 == "0.0.0.0" { print comma "\"" $1 "\""; comma = "," }
        END { print "]}\n" }' "${document%%\"*}" ;;
    *) echo '{"err":"no such call"}' ;;
  esac
done
