# Completion of cofre for bash.

_cofre_options() {
  local secrets="--object --passphrase-file --passphrase-fd -h --help"
  local source="-f --format --image-opts -U --force-share --untrusted --allow-backing --trusted"
  case $1 in
    create) echo "-f --format -o -b -F -u -q $secrets" ;;
    convert) echo "$source -l -O -o -B -F -n --target-image-opts --target-is-zero --bitmaps --skip-broken-bitmaps -S -t -T -m -W -C -r --salvage -c -p -q --stats $secrets" ;;
    info) echo "$source --backing-chain --limits --output $secrets" ;;
    check) echo "$source -r --repair --backup --restore -T --output -p -q $secrets" ;;
    audit) echo "$source --fix -T --output -p -q $secrets" ;;
    compare) echo "$source -F -s -T -p -q $secrets" ;;
    amend) echo "-f --format --image-opts -o --add-passphrase --change-passphrase --remove-passphrase --new-passphrase-file --new-passphrase-fd --iter-time --force -t -p -q $secrets" ;;
    measure) echo "$source --size -O -o -l --output $secrets" ;;
    resize) echo "-f --format --image-opts --untrusted --allow-backing --trusted --shrink --preallocation -q --quiet $secrets" ;;
    dd) echo "$source -O $secrets" ;;
    rebase) echo "$source -b -F -u -c --compress -t -T -p -q $secrets" ;;
    commit) echo "-f --format --image-opts -b -d -t -r -p -q $secrets" ;;
    bitmap) echo "--add --remove --clear --enable --disable --merge -g -b -F -f --format --image-opts $secrets" ;;
    map) echo "$source -s --start-offset -l --max-length --output $secrets" ;;
    snapshot) echo "$source -l --list -c --create -a --apply -d --delete -q $secrets" ;;
    doctor) echo "$source --domain --quick --output $secrets" ;;
    serve) echo "$source --nbd --vhost-user-blk --num-queues --queue-size --poll-us --serial -x --export-name -D --description -r --read-only -l --load-snapshot --snapshot -B --bitmap -e --shared -t --persistent --once --cache --aio --discard --detect-zeroes --socket-mode --tls-creds --tls-authz --fork --pid-file -v --verbose $secrets" ;;
    io) echo "$source -c --cmd -r --read-only -s --snapshot -C --copy-on-read -t --cache -n --nocache -d --discard -k --native-aio -i --aio -m --misalign -T --trace -V --version $secrets" ;;
    bench) echo "$source -c -d -o -s -S -w --pattern --flush-interval --no-drain -t -i -n $secrets --kernel --turns --output --cluster-size --encrypt --op --size --rounds --dir --vs --html -p -q" ;;
    witness) echo "-p --pid --seconds --sample --output --report -h --help" ;;
  esac
}

# The values of option $2 of command $1; nothing where a file or free text follows.
_cofre_values() {
  local formats="raw qcow2 luks" caches="none writeback writethrough directsync unsafe"
  local sources="$formats vmdk vdi vhdx vpc"
  case $1:$2 in
    create:-f | create:--format) echo "$formats" ;;
    compare:-F) echo "$sources" ;;
    *:-f | *:--format) echo "$sources" ;;
    *:-O | *:-F) echo "$formats" ;;
    *:-T | convert:-t | bench:-t | amend:-t | rebase:-t | commit:-t | io:-t | io:--cache | serve:--cache) echo "$caches" ;;
    *:--output) echo "human json" ;;
    bench:--cluster-size) echo "512 4k 64k 2M" ;;
    bench:--encrypt) echo "none aes luks" ;;
    bench:--op) echo "convert read write randread randwrite" ;;
    bench:--vs) echo "qemu-img" ;;
    bench:--kernel) echo "portable aesni vaes256 vaes512 armv8" ;;
    check:-r | check:--repair) echo "leaks all" ;;
    io:-d | io:--discard | serve:--discard) echo "unmap ignore" ;;
    *:--object) echo "secret,id=" ;;
    resize:--preallocation) echo "off metadata falloc full" ;;
    bench:-i) echo "threads native io_uring" ;;
    amend:-o) echo "help compat= lazy_refcounts= refcount_bits= size= encrypt.state=" ;;
    create:-o | convert:-o | measure:-o) echo "help encrypt.format=luks cluster_size= compression_type= preallocation=" ;;
  esac
}

_cofre() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]}
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W "create convert info check audit compare amend bitmap measure resize dd map rebase commit snapshot serve doctor io bench witness --help --version" -- "$word"))
    return
  fi
  local values
  values=$(_cofre_values "$command" "$before")
  if [[ -n $values ]]; then
    COMPREPLY=($(compgen -W "$values" -- "$word"))
  elif [[ $command == bench && $COMP_CWORD -eq 2 ]]; then
    COMPREPLY=($(compgen -W "crypto requests image --help" -- "$word"))
  elif [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$(_cofre_options "$command")" -- "$word"))
  else
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -f -- "$word"))
  fi
}

complete -F _cofre cofre
