# Completion of cofre for fish.

set -l formats 'raw qcow2 luks'
set -l sources 'raw qcow2 luks vmdk vdi vhdx vpc'
set -l caches 'none writeback writethrough directsync unsafe'

function __cofre_is
    set -l words (commandline -opc)
    test (count $words) -gt 1; and contains -- $words[2] $argv
end

complete -c cofre -n __fish_use_subcommand -f -a create -d 'An empty image, encrypted if asked to'
complete -c cofre -n __fish_use_subcommand -f -a convert -d 'Copy an image into another format: encrypt it, decrypt it'
complete -c cofre -n __fish_use_subcommand -f -a info -d 'What an image is'
complete -c cofre -n __fish_use_subcommand -f -a audit -d 'What did encryption miss in an image? Wipe it'
complete -c cofre -n __fish_use_subcommand -f -a check -d 'Is a qcow2 image sound? Repair it'
complete -c cofre -n __fish_use_subcommand -f -a compare -d 'Do two images show the same bytes?'
complete -c cofre -n __fish_use_subcommand -f -a bitmap -d 'Change the dirty bitmaps of a qcow2 image'
complete -c cofre -n __fish_use_subcommand -f -a amend -d 'Change passphrases and options of an image'
complete -c cofre -n __fish_use_subcommand -f -a rebase -d 'Give an image another backing file, or none'
complete -c cofre -n __fish_use_subcommand -f -a commit -d 'Write the changes of an image into its backing file'
complete -c cofre -n __fish_use_subcommand -f -a measure -d 'How large the file of a new image will be'
complete -c cofre -n __fish_use_subcommand -f -a resize -d 'Give an image another size'
complete -c cofre -n __fish_use_subcommand -f -a dd -d 'Copy a part of an image into a new one'
complete -c cofre -n __fish_use_subcommand -f -a map -d 'Where the content of an image lies'
complete -c cofre -n __fish_use_subcommand -f -a snapshot -d 'Internal snapshots: list, create, apply, delete'
complete -c cofre -n __fish_use_subcommand -f -a serve -d 'Offer images to NBD clients and machines'
complete -c cofre -n __fish_use_subcommand -f -a doctor -d 'What is right and wrong with this host, an image, a domain'
complete -c cofre -n __fish_use_subcommand -f -a io -d 'Read and write parts of an image'
complete -c cofre -n __fish_use_subcommand -f -a bench -d 'Measure how fast an image or encryption is'
complete -c cofre -n __fish_use_subcommand -f -a witness -d 'Which AES instructions does a program execute?'

# All commands.
complete -c cofre -s h -l help -d 'Show help'
complete -c cofre -n __fish_use_subcommand -s V -l version -d 'Show the version'
complete -c cofre -l object -x -a 'secret,id=' -d 'A secret'
complete -c cofre -l passphrase-file -r -d 'Passphrase of images that name no secret'
complete -c cofre -l passphrase-fd -x -d 'The same from a file descriptor'
complete -c cofre -n '__cofre_is create' -s f -l format -x -a $formats -d 'Format of the image'

# Several commands.
set -l readers '__cofre_is convert info check audit compare measure dd map rebase snapshot serve doctor io bench'
set -l untrusting '__cofre_is convert info check audit compare measure resize dd map rebase snapshot serve doctor io bench'
complete -c cofre -n $readers -s f -l format -x -a $sources -d 'Format of the image'
complete -c cofre -n $readers -l image-opts -d 'Images are named by options'
complete -c cofre -n $readers -s U -l force-share -d 'Read what another process may be writing'
complete -c cofre -n $untrusting -l untrusted -d 'Open no file that the header names'
complete -c cofre -n $untrusting -l allow-backing -x -a '(__fish_complete_directories)' -d 'But those in this folder'
complete -c cofre -n $untrusting -l trusted -d 'Open whatever the header names'
complete -c cofre -n '__cofre_is create convert check audit compare rebase commit snapshot bench' -s q -d 'Print nothing but errors'
complete -c cofre -n '__cofre_is convert check audit compare rebase commit bench' -s p -d 'Show progress'
complete -c cofre -n '__cofre_is convert check audit compare rebase' -s T -x -a $caches -d 'Cache mode'
complete -c cofre -n '__cofre_is info check audit measure map doctor bench witness' -l output -x -a 'human json' -d 'Form'
complete -c cofre -n '__cofre_is create convert measure' -s o -x -a 'help encrypt.format=luks cluster_size= compression_type= preallocation=' -d 'Options of the format'
complete -c cofre -n '__cofre_is create convert compare rebase bitmap' -s F -x -a $sources -d 'Format of the other image'

# create
complete -c cofre -n '__cofre_is create' -s b -r -d 'Backing file'
complete -c cofre -n '__cofre_is create' -s u -d 'Do not open the backing file'

# convert
complete -c cofre -n '__cofre_is convert measure dd' -s O -x -a $formats -d 'Format of the target'
complete -c cofre -n '__cofre_is convert measure' -s l -x -d 'This internal snapshot'
complete -c cofre -n '__cofre_is convert' -s B -r -d 'Backing file of the target'
complete -c cofre -n '__cofre_is convert' -s n -d 'Write into the existing target'
complete -c cofre -n '__cofre_is convert' -l target-image-opts -d 'The target is named by options'
complete -c cofre -n '__cofre_is convert' -l target-is-zero -d 'The existing target reads as zero'
complete -c cofre -n '__cofre_is convert' -l bitmaps -d 'Copy the dirty bitmaps too'
complete -c cofre -n '__cofre_is convert' -l skip-broken-bitmaps -d 'Leave out inconsistent bitmaps'
complete -c cofre -n '__cofre_is convert' -s S -x -d 'Zeros so long are not stored'
complete -c cofre -n '__cofre_is convert' -s t -x -a $caches -d 'Cache mode of the target'
complete -c cofre -n '__cofre_is convert' -s m -x -d 'Requests in flight'
complete -c cofre -n '__cofre_is convert' -s W -d 'Allocate in any order'
complete -c cofre -n '__cofre_is convert' -s C -d 'Have the kernel copy'
complete -c cofre -n '__cofre_is convert' -s r -x -d 'Bytes a second'
complete -c cofre -n '__cofre_is convert' -l salvage -d 'Take what cannot be read for zeros'
complete -c cofre -n '__cofre_is convert' -s c -d 'Store clusters compressed'
complete -c cofre -n '__cofre_is convert' -l stats -d 'Tell the AES kernel and the speed'

# info
complete -c cofre -n '__cofre_is info' -l backing-chain -d 'Tell of the whole chain'
complete -c cofre -n '__cofre_is info' -l limits -d 'Tell which requests it takes'

# check
complete -c cofre -n '__cofre_is check' -s r -l repair -x -a 'leaks all' -d 'Repair'
complete -c cofre -n '__cofre_is check' -l backup -r -d 'Keep what the repair changes'
complete -c cofre -n '__cofre_is check' -l restore -r -d 'Put back what a backup keeps'

# audit
complete -c cofre -n '__cofre_is audit' -l fix -d 'Wipe what can be wiped'

# compare
complete -c cofre -n '__cofre_is compare' -s s -d 'Strict'

# bitmap
complete -c cofre -n '__cofre_is bitmap' -l image-opts -d 'The image is named by options'
complete -c cofre -n '__cofre_is bitmap' -l add -d 'Make the bitmap'
complete -c cofre -n '__cofre_is bitmap' -l remove -d 'Remove the bitmap'
complete -c cofre -n '__cofre_is bitmap' -l clear -d 'Mark everything clean'
complete -c cofre -n '__cofre_is bitmap' -l enable -d 'Note changes'
complete -c cofre -n '__cofre_is bitmap' -l disable -d 'Note no changes'
complete -c cofre -n '__cofre_is bitmap' -l merge -x -d 'Mark what is dirty in another'
complete -c cofre -n '__cofre_is bitmap' -s g -x -d 'Bytes for a bit'
complete -c cofre -n '__cofre_is bitmap' -s b -r -d 'The image of other bitmaps'
# measure
complete -c cofre -n '__cofre_is measure' -l size -x -d 'Of an empty image'

# resize
complete -c cofre -n '__cofre_is resize' -s f -l format -x -a $formats -d 'Format of the image'
complete -c cofre -n '__cofre_is resize' -l image-opts -d 'The image is named by options'
complete -c cofre -n '__cofre_is resize' -l shrink -d 'Allow a smaller size'
complete -c cofre -n '__cofre_is resize' -l preallocation -x -a 'off metadata falloc full' -d 'Space of the new part'
complete -c cofre -n '__cofre_is resize' -s q -l quiet -d 'Print nothing but errors'

# bench requests
complete -c cofre -n '__cofre_is bench' -s c -x -d 'So many requests'
complete -c cofre -n '__cofre_is bench' -s d -x -d 'So many in flight'
complete -c cofre -n '__cofre_is bench' -s o -x -d 'Where they start'
complete -c cofre -n '__cofre_is bench' -s s -x -d 'Size of a request'
complete -c cofre -n '__cofre_is bench' -s S -x -d 'From one to the next'
complete -c cofre -n '__cofre_is bench' -s w -d 'Write'
complete -c cofre -n '__cofre_is bench' -l pattern -x -d 'What is written'
complete -c cofre -n '__cofre_is bench' -l flush-interval -x -d 'Requests between flushes'
complete -c cofre -n '__cofre_is bench' -l no-drain -d 'Flushes do not wait'
complete -c cofre -n '__cofre_is bench' -s t -x -a $caches -d 'Cache mode'
complete -c cofre -n '__cofre_is bench' -s i -x -a 'threads native io_uring' -d 'Taken for compatibility'
complete -c cofre -n '__cofre_is bench' -s n -d 'As -i native'

# amend
complete -c cofre -n '__cofre_is amend' -s f -l format -x -a $formats -d 'Format of the image'
complete -c cofre -n '__cofre_is amend' -l image-opts -d 'The image is named by options'
complete -c cofre -n '__cofre_is amend' -s o -x -a 'help compat= lazy_refcounts= refcount_bits= size= encrypt.state=' -d 'What to change'
complete -c cofre -n '__cofre_is amend' -l add-passphrase -d 'One more passphrase'
complete -c cofre -n '__cofre_is amend' -l change-passphrase -d 'A new passphrase for the old one'
complete -c cofre -n '__cofre_is amend' -l remove-passphrase -d 'Erase the passphrase'
complete -c cofre -n '__cofre_is amend' -l new-passphrase-file -r -d 'The new passphrase'
complete -c cofre -n '__cofre_is amend' -l new-passphrase-fd -x -d 'The same from a file descriptor'
complete -c cofre -n '__cofre_is amend' -l iter-time -x -d 'Milliseconds of trying it'
complete -c cofre -n '__cofre_is amend' -l force -d 'Erase even the last passphrase'
complete -c cofre -n '__cofre_is amend' -s t -x -a $caches -d 'Cache mode'
complete -c cofre -n '__cofre_is amend' -s p -d 'Show progress'
complete -c cofre -n '__cofre_is amend' -s q -d 'Print nothing but errors'

# rebase
complete -c cofre -n '__cofre_is rebase' -s b -r -d 'The new backing file; empty: none'
complete -c cofre -n '__cofre_is rebase' -s u -d 'Change the name only'
complete -c cofre -n '__cofre_is rebase' -s c -l compress -d 'Compress what is written'
complete -c cofre -n '__cofre_is rebase' -s t -x -a $caches -d 'Cache mode of the image'

# commit
complete -c cofre -n '__cofre_is commit' -s f -l format -x -a $formats -d 'Format of the image'
complete -c cofre -n '__cofre_is commit' -l image-opts -d 'The image is named by options'
complete -c cofre -n '__cofre_is commit' -s b -r -d 'The image of the chain to commit into'
complete -c cofre -n '__cofre_is commit' -s d -d 'Do not empty the image'
complete -c cofre -n '__cofre_is commit' -s t -x -a $caches -d 'Cache mode'
complete -c cofre -n '__cofre_is commit' -s r -x -d 'Bytes a second'

# map
complete -c cofre -n '__cofre_is map' -s s -l start-offset -x -d 'Start here'
complete -c cofre -n '__cofre_is map' -s l -l max-length -x -d 'So many bytes'

# snapshot
complete -c cofre -n '__cofre_is snapshot' -s l -l list -d 'List the snapshots'
complete -c cofre -n '__cofre_is snapshot' -s c -l create -x -d 'Keep the present state under this name'
complete -c cofre -n '__cofre_is snapshot' -s a -l apply -x -d 'Make the disk what it was'
complete -c cofre -n '__cofre_is snapshot' -s d -l delete -x -d 'Delete a snapshot'

# doctor
complete -c cofre -n '__cofre_is doctor' -l domain -r -d 'A libvirt domain'
complete -c cofre -n '__cofre_is doctor' -l quick -d 'Measure nothing'

# serve
complete -c cofre -n '__cofre_is serve' -l nbd -x -a 'unix: tcp:' -d 'Listen on'
complete -c cofre -n '__cofre_is serve' -l vhost-user-blk -r -d 'Listen for a virtual machine on'
complete -c cofre -n '__cofre_is serve' -l num-queues -x -d 'Virtqueues of a machine'
complete -c cofre -n '__cofre_is serve' -l queue-size -x -d 'Descriptors of a virtqueue'
complete -c cofre -n '__cofre_is serve' -l poll-us -x -d 'Look for requests so long'
complete -c cofre -n '__cofre_is serve' -l serial -x -d 'Serial of the disk'
complete -c cofre -n '__cofre_is serve' -s x -l export-name -x -d 'Name of the export'
complete -c cofre -n '__cofre_is serve' -s D -l description -x -d 'Description'
complete -c cofre -n '__cofre_is serve' -s r -l read-only -d 'Clients can read only'
complete -c cofre -n '__cofre_is serve' -s l -l load-snapshot -l snapshot -x -d 'An internal snapshot'
complete -c cofre -n '__cofre_is serve' -s B -l bitmap -x -d 'Tell of a dirty bitmap'
complete -c cofre -n '__cofre_is serve' -s e -l shared -x -d 'So many clients at a time'
complete -c cofre -n '__cofre_is serve' -s t -l persistent -d 'Go on without clients'
complete -c cofre -n '__cofre_is serve' -l once -d 'End with the last client'
complete -c cofre -n '__cofre_is serve' -l cache -x -a $caches -d 'Cache mode'
complete -c cofre -n '__cofre_is serve' -l aio -x -d 'Taken for compatibility'
complete -c cofre -n '__cofre_is serve' -l discard -x -a 'unmap ignore' -d 'What a trim does'
complete -c cofre -n '__cofre_is serve' -l detect-zeroes -x -a 'off on unmap' -d 'Writes of zeros'
complete -c cofre -n '__cofre_is serve' -l socket-mode -x -d 'Rights of unix sockets'
complete -c cofre -n '__cofre_is serve' -l tls-creds -x -d 'TLS credentials'
complete -c cofre -n '__cofre_is serve' -l tls-authz -x -d 'Who is let in'
complete -c cofre -n '__cofre_is serve' -l fork -d 'Go to the background'
complete -c cofre -n '__cofre_is serve' -l pid-file -r -d 'File for the process id'
complete -c cofre -n '__cofre_is serve' -s v -l verbose -d 'Tell of faults'

# io
complete -c cofre -n '__cofre_is io' -s c -l cmd -x -d 'A command'
complete -c cofre -n '__cofre_is io' -s r -l read-only -d 'Open for reading'
complete -c cofre -n '__cofre_is io' -s s -l snapshot -d 'Writes go into memory and are lost'
complete -c cofre -n '__cofre_is io' -s C -l copy-on-read -d 'Keep what is read from the backing file'
complete -c cofre -n '__cofre_is io' -s m -l misalign -d 'Taken for compatibility'
complete -c cofre -n '__cofre_is io' -s T -l trace -x -d 'Taken for compatibility'
complete -c cofre -n '__cofre_is io' -s t -l cache -x -a $caches -d 'Cache mode'
complete -c cofre -n '__cofre_is io' -s n -l nocache -d 'As -t none'
complete -c cofre -n '__cofre_is io' -s d -l discard -x -a 'unmap ignore' -d 'What discard does'
complete -c cofre -n '__cofre_is io' -s k -l native-aio -d 'Taken for compatibility'
complete -c cofre -n '__cofre_is io' -s i -l aio -x -d 'Taken for compatibility'
complete -c cofre -n '__cofre_is io' -s V -l version -d 'Show the version'

# bench
complete -c cofre -n '__cofre_is bench' -f -a crypto -d 'The AES kernels'
complete -c cofre -n '__cofre_is bench' -f -a image -d 'Images of different cluster sizes'
complete -c cofre -n '__cofre_is bench' -l kernel -x -a 'portable aesni vaes256 vaes512 armv8' -d 'This AES kernel only'
complete -c cofre -n '__cofre_is bench' -l turns -x -d 'How often each is timed'
complete -c cofre -n '__cofre_is bench' -l cluster-size -x -a '512,4k,64k,2M' -d 'Cluster sizes'
complete -c cofre -n '__cofre_is bench' -l encrypt -x -a 'none,aes,luks none aes luks' -d 'Encryptions'
complete -c cofre -n '__cofre_is bench' -l op -x -a 'convert read write randread randwrite' -d 'Operations'
complete -c cofre -n '__cofre_is bench' -l size -x -d 'Size of the images'
complete -c cofre -n '__cofre_is bench' -l rounds -x -d 'How often everything is measured'
complete -c cofre -n '__cofre_is bench' -l dir -x -a '(__fish_complete_directories)' -d 'Where the images are made'
complete -c cofre -n '__cofre_is bench' -l vs -r -a qemu-img -d 'Measure this too'
complete -c cofre -n '__cofre_is bench' -l html -r -d 'Write a page with charts'

# witness
complete -c cofre -n '__cofre_is witness' -s p -l pid -x -a '(__fish_complete_pids)' -d 'Watch a running process'
complete -c cofre -n '__cofre_is witness' -l seconds -x -d 'So long'
complete -c cofre -n '__cofre_is witness' -l sample -d 'Estimate shares of time instead'
complete -c cofre -n '__cofre_is witness' -l report -r -d 'Write the report there'
